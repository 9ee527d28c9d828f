"""Optimizers that compute what Keras's do, in fewer passes over memory."""

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """Keras's Adam, updated by TensorFlow's one fused kernel a variable instead of twelve.

    The same formula (Kingma & Ba 2015, section 2, last paragraph), state and names. On a CPU a
    784-400-40 VAE's step takes a quarter to a third less time; with so few weights that they stay
    in the fastest cache it takes slightly more. Gradients must be dense; no AMSGrad.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )
